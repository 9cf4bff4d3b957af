-- Says that entries are about to be sent, which whoever takes them over must know. (sinks.lua comes before this.)
--
-- ARGV  2 sink   3 consumer, then the ids
--
-- Returns those that are still the consumer's; they are its own anew.
local mine, claim = {}, {'XCLAIM', SAMPLES, ARGV[2], ARGV[3], 0}
for i = 4, #ARGV do
  local row = taken(ARGV[2], ARGV[i])
  if row and row[2] == ARGV[3] then
    mine[#mine + 1] = ARGV[i]
    claim[#claim + 1] = ARGV[i]
  end
end
if #mine == 0 then return mine end
for _, word in ipairs({'RETRYCOUNT', 1, 'JUSTID'}) do claim[#claim + 1] = word end
redis.call(unpack(claim))
return mine
