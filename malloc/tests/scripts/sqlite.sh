# A database with indexes, joins, text search by pattern, deletion and vacuum.
sqlite3 -batch books.db <<'SQL'
.bail on
PRAGMA page_size = 4096;
PRAGMA cache_size = 500;
CREATE TABLE book(id INTEGER PRIMARY KEY, name TEXT, author INTEGER, pages INTEGER, body BLOB);
CREATE TABLE author(id INTEGER PRIMARY KEY, name TEXT UNIQUE);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
  INSERT INTO author SELECT i, 'author number ' || i FROM n;
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)
  INSERT INTO book SELECT i, 'book ' || (i * 7919 % 40009), i * 31 % 500 + 1, i * 17 % 900, zeroblob(i % 300) FROM n;
COMMIT;
CREATE INDEX by_author ON book(author, pages);
CREATE INDEX by_name ON book(name);
SELECT author.name, count(*), sum(pages), max(length(body)) FROM book JOIN author ON author.id = book.author
  GROUP BY author.id ORDER BY sum(pages) DESC, author.id LIMIT 20;
SELECT count(*) FROM book WHERE name LIKE '%99%' AND pages BETWEEN 100 AND 300;
SELECT group_concat(name, ',') FROM (SELECT name FROM book ORDER BY name LIMIT 300);
UPDATE book SET name = upper(name) || ' (second edition)' WHERE id % 3 = 0;
DELETE FROM book WHERE id % 5 = 0;
SELECT count(DISTINCT name), sum(length(name)) FROM book;
SELECT json_group_array(json_object('id', id, 'name', name)) FROM (SELECT * FROM book ORDER BY id LIMIT 200);
WITH pairs AS (SELECT a.id x, b.id y FROM author a, author b WHERE (a.id + b.id) % 97 = 0)
  SELECT count(*), sum(x * y) FROM pairs;
PRAGMA integrity_check;
VACUUM;
PRAGMA integrity_check;
SELECT count(*), sum(id), sum(pages) FROM book;
SQL
echo "status $?"
sqlite3 -batch books.db 'SELECT nothing FROM nowhere' 2>/dev/null
echo "status $?"
