# Compiled here and there, the objects are the same to the last byte.
set -e
here=$(dirname "$0")/../c
gcc -O2 -Wall -c "$here/fork.c" -o one.o
gcc -O3 -S "$here/threads.c" -o two.s
g++ -O1 -c "$here/plugin.cc" -o three.o
sha256sum one.o two.s three.o
echo 'int main(void) { return 5 + "text"; }' >wrong.c
gcc -c wrong.c 2>&1 | grep -c error || true
echo 'int main(void) { return 7; }' >right.c
gcc -flto -O2 right.c -o right
./right || echo "returned $?"
