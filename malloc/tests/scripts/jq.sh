# A document made, sorted, grouped, rewritten and printed.
set -e
jq -n -c '[range(20000) | {id: ., name: "name \(. * 7919 % 20011)", tags: [range(. % 5) | "tag \(.)"], nested: {a: {b: (. % 13)}}}]' >document.json
sha256sum <document.json
jq 'group_by(.nested.a.b) | map({b: .[0].nested.a.b, count: length, first: (sort_by(.name) | .[0].name)})' document.json
jq '[.[] | select(.tags | length > 3) | .name | ascii_upcase | gsub("NAME"; "n")] | unique | length, .[0:5]' document.json
jq -c 'reduce .[] as $each ({}; .[$each.name[0:7]] += $each.id) | to_entries | sort_by(.value) | .[0:10]' document.json
jq -r '.[] | [.id, .name] | @csv' document.json | tail -n 3
jq '.[5].no.such | error' document.json 2>/dev/null || echo "status $?"
echo '{"broken' | jq . 2>/dev/null || echo "status $?"
