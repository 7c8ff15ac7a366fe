-- Builds a database, asks it and changes it. Random numbers come from a fixed recurrence.
pragma journal_mode = memory;
pragma synchronous = off;
pragma cache_size = -40000;
create table person (id integer primary key, name text, city integer, born integer);
create table visit (person integer, place integer, day integer, note text);
begin;
with recursive n(i, r) as (
    select 1, 12345 union all select i + 1, (r * 1103515245 + 12345) % 2147483648 from n where i < 60000)
insert into person select i, printf('name-%d-%x', i, r), r % 500, 1940 + r % 80 from n;
with recursive n(i, r) as (
    select 1, 777 union all select i + 1, (r * 1103515245 + 12345) % 2147483648 from n where i < 150000)
insert into visit select r % 60000 + 1, r % 977, r % 3650, hex(r) || '-' || i from n;
commit;
create index visit_person on visit (person, day);
create index person_city on person (city);
select city, count(*), min(name), sum(born) from person group by city order by 2 desc, 1 limit 20;
select p.city, v.place, count(*) c from visit v join person p on p.id = v.person group by 1, 2 order by c desc, 1, 2 limit 20;
select group_concat(name, ';') from (select name from person where born = 1980 order by name limit 200);
update visit set note = note || place where day % 7 = 0;
delete from visit where place % 5 = 3;
select length(group_concat(note)), count(distinct place) from visit;
select name, (select count(*) from visit where person = p.id) n from person p order by n desc, name limit 20;
vacuum;
