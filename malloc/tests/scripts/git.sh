# A repository made, branched, merged, packed, cloned and checked.
set -e
export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@example.org GIT_PAGER=cat
export GIT_COMMITTER_NAME=C GIT_COMMITTER_EMAIL=c@example.org
now=1700000000
commit() {
    now=$((now + 60))
    GIT_AUTHOR_DATE="$now +0000" GIT_COMMITTER_DATE="$now +0000" git commit -q -a -m "$1"
}
git init -q -b trunk repository
cd repository
i=0
while [ $i -lt 30 ]; do
    mkdir -p "dir$((i % 5))"
    seq $i $((i * 40 + 200)) >"dir$((i % 5))/file$((i % 12)).txt"
    git add -A
    commit "change number $i"
    i=$((i + 1))
done
git checkout -q -b side HEAD~12
echo "on the side" >side.txt
git add side.txt
commit "side"
git checkout -q trunk
now=$((now + 60))
GIT_AUTHOR_DATE="$now +0000" GIT_COMMITTER_DATE="$now +0000" git merge -q --no-ff -m merged side
git rev-parse HEAD trunk side
git log --stat --oneline | tail -n 60
git log --graph --format='%h %an %ad %s' --date=iso
git diff --stat HEAD~20
git diff HEAD~3 -- dir1 | head -n 200
git blame dir3/file3.txt | tail -n 5
git grep -c 17 | head -n 20
git -c pack.threads=4 gc -q --aggressive --prune=now
git fsck --full --strict 2>/dev/null
git count-objects -v | grep -E '^(count|in-pack|packs|garbage)'
git archive HEAD | sha256sum
cd ..
git clone -q repository copy
git -C copy log --format=%H | sha256sum
git -C copy rev-list --objects --all | wc -l
git -C copy reset -q --hard HEAD~5
git -C copy status --short --branch
git -C copy bundle create ../bundle --all 2>/dev/null
git bundle verify bundle 2>/dev/null | tail -n 1 || true
