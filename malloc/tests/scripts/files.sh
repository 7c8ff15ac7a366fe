# Sorting beyond the buffer, compression with threads, archives, and a larger shell.
set -e
seq 1 200000 | sed 's/.*/& & line number &/' >lines
sort -S 3M --parallel=2 -k2,2r lines | sha256sum
sort -n -u -r lines | tail -n 2
sort lines lines | uniq -c | awk '{ sum += $1 * $2 } END { print sum }'
xz -T 2 -3 -k lines
xz -dc lines.xz | cmp - lines && echo "xz there and back"
gzip -9 -n -c lines | sha256sum
mkdir tree
split -l 5000 lines tree/part.
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@1700000000 --mode=644 -cf tree.tar tree
sha256sum <tree.tar
tar -tf tree.tar | tail -n 2
mkdir out
tar -C out -xf tree.tar
diff -r tree out/tree && echo "tar there and back"
find tree -type f | sort | xargs sha256sum | sha256sum
bash -c 'declare -A map; for i in {1..20000}; do map[$((i * 7 % 5003))]+="$i,"; done; echo ${#map[@]} ${map[17]}; x=(); for i in {1..5000}; do x+=("$i"); done; echo ${x[@]:4990}; (exit 3); echo $?'
