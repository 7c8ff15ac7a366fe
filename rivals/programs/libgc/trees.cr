# Trees, a table of arrays, and strings that go through a channel from many fibers: `trees DEPTH`.
class Node
  getter left : Node?
  getter right : Node?

  def initialize(@left = nil, @right = nil)
  end

  def self.grow(levels : Int32) : Node
    levels > 0 ? new(grow(levels - 1), grow(levels - 1)) : new
  end

  def size : Int32
    (left = @left) && (right = @right) ? 1 + left.size + right.size : 1
  end
end

depth = ARGV[0].to_i
puts "stretch #{Node.grow(depth + 1).size}"
stays = Node.grow(depth)
4.step(to: depth, by: 2) do |levels|
  nodes = 0
  (1 << (depth - levels + 4)).times { nodes += Node.grow(levels).size }
  puts "depth #{levels}: #{nodes}"
end
puts "long #{stays.size}"

table = {} of String => Array(Int32)
200_000.times { |i| (table["key#{i % 50_000}"] ||= [] of Int32) << i }
puts table.size

channel = Channel(Int32).new(16)
200.times { |i| spawn { 500.times { |j| channel.send((0..8).map { |k| "#{i}-#{j}-#{k}" }.join.size) } } }
letters = 0
(200 * 500).times { letters += channel.receive }
puts letters
