-- At an orderly stop: gives back what a consumer of a sink holds. (sinks.lua comes before this.)
--
-- ARGV  2 sink   3 consumer   4 who has it then   5 ms for which nobody seems to have touched it then
--       6 most entries   7 ms of silence after which consumers that hold nothing are forgotten
--
-- Marks (mark.lua) stay: of what is left here, it is not known what came of it.
-- Returns the number of entries that were given back; with less than the most, the consumer is forgotten.
local sink, consumer, most = ARGV[2], ARGV[3], tonumber(ARGV[6])
local rows = redis.pcall('XPENDING', SAMPLES, sink, '-', '+', most, consumer)
if rows.err then return 0 end -- there is no such sink any more
if #rows > 0 then
  local claim = {'XCLAIM', SAMPLES, sink, ARGV[4], 0}
  for _, row in ipairs(rows) do claim[#claim + 1] = row[1] end
  for _, word in ipairs({'IDLE', ARGV[5], 'JUSTID'}) do claim[#claim + 1] = word end
  redis.call(unpack(claim))
end
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', SAMPLES, sink)) do
  local other = {}
  for i = 1, #row, 2 do other[row[i]] = row[i + 1] end
  local is_over = other.name == consumer or other.idle > tonumber(ARGV[7])
  if other.pending == 0 and is_over then
    redis.call('XGROUP', 'DELCONSUMER', SAMPLES, sink, other.name)
  end
end
return #rows
