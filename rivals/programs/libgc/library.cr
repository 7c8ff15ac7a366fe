# Much of the standard library, for the compiler to look at; never run.
require "big"
require "compress/gzip"
require "csv"
require "digest"
require "ecr"
require "http"
require "http/server"
require "ini"
require "json"
require "log"
require "oauth2"
require "openssl"
require "option_parser"
require "socket"
require "spec"
require "uri"
require "uuid"
require "xml"
require "yaml"

record Pair, number : Int32, name : String do
  include JSON::Serializable
  include YAML::Serializable
end

puts Pair.from_json(%({"number": 1, "name": "one"})).to_yaml
server = HTTP::Server.new { |context| context.response.print "hello" }
puts server.addresses.size
puts CSV.parse("a,b\n1,2").size, INI.parse("[a]\nb=c").size, UUID.random, BigInt.new(2) ** 100
