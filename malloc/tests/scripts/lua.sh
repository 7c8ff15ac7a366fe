# Tables, strings, coroutines and the collector.
lua5.4 - <<'LUA'
local state = 42
local function draw(n) state = (state * 1103515245 + 12345) % 2147483648; return state // 256 % n end
local words, list = {}, {}
for i = 1, 100000 do
  local word = string.format("%x-%d", draw(50000), i % 7)
  words[word] = (words[word] or 0) + 1
  if i % 4 == 0 then list[#list + 1] = word .. word end
end
table.sort(list)
print(#list, list[1], list[#list])
local text = table.concat(list, ",")
print(#text, select(2, text:gsub("a", "b")))
local makers = {}
for i = 1, 2000 do
  makers[i] = coroutine.wrap(function() local kept = {} for j = 1, 20 do kept[j] = ("x"):rep(j * 10); coroutine.yield(#kept) end end)
end
local sum = 0
for round = 1, 20 do for i = 1, #makers do sum = sum + makers[i]() end end
print(sum)
makers = nil
collectgarbage()
for round = 1, 30 do local t = {} for i = 1, 20000 do t[i] = {i} end end
print(pcall(error, "caught"))
LUA
echo "status $?"
