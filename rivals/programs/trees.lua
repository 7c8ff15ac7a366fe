-- Trees, tables with holes and strings: what a scripting language's collector gives malloc to do.
local state = 1
local function number(limit)
  state = (state * 1103515245 + 12345) % 2147483648
  return state % limit
end

local function tree(depth)
  if depth == 0 then return {} end
  return { tree(depth - 1), tree(depth - 1) }
end

local function count(node)
  if not node[1] then return 1 end
  return 1 + count(node[1]) + count(node[2])
end

local lasting = tree(15)
local sum = 0
for depth = 4, 14, 2 do
  for _ = 1, 1 << (16 - depth) do sum = sum + count(tree(depth)) end
end

local map, words = {}, {}
for i = 1, 300000 do
  local key = "key" .. number(40000)
  map[key] = (map[key] or "") .. string.char(97 + i % 26)
  if #map[key] > 20 then map[key] = nil end
end
for key, value in pairs(map) do words[#words + 1] = key .. value end
table.sort(words)
print(sum, count(lasting), #words, words[1], words[#words], #table.concat(words))
