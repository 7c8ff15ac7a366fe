# Strings beyond the embedded size, hashes, arrays and objects: most of them end in malloc.
Item = Struct.new(:key, :text, :list)

state = 1
number = lambda do |limit|
  state = (state * 6364136223846793005 + 1442695040888963407) & 0xffffffffffffffff
  (state >> 33) % limit
end

cache = {}
100_000.times do |i|
  key = number.(20_000)
  cache[key] = Item.new("key-#{key}", "text #{i} " * (number.(12) + 1), Array.new(number.(30)) { |n| n * i })
  cache.shift if cache.size > 8_000
end
words = Array.new(60_000) { number.(1 << 40).to_s(36) * (number.(3) + 1) }
groups = words.group_by { |word| word[0, 2] }
longest = groups.map { |head, list| [list.sum(&:size), head] }.max(20)
lines = words.sort.each_slice(50).map { |slice| slice.join("-").gsub("a", "aa") }
puts cache.size, longest.inspect, lines.size, lines.sum(&:size), cache.values.sum { |item| item.list.sum }
