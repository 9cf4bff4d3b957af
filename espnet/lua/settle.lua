-- Books what became of samples for a sink; ends the entries that are finished. (sinks.lua comes before this.)
--
-- ARGV  2 sink   3 consumer   4 most dead letters   5 '1' where samples are kept until there is a sink
--       6 samples that the sink may get twice, then for each entry: id, its samples, its batch's bytes, then what
--       is news since the last time: accepted, expired, dropped, dead; '' or, of an unfinished entry, a byte
--       for each sample, zero where it has no fate yet; then each dead letter
--
-- A full Redis refuses what needs memory, unless the script has written before: so what needs none comes first.
-- An unfinished entry is anybody's at once. One that is not the consumer's was taken over by somebody else, who
-- will say what becomes of it, or was dropped. Returns the number of entries that were settled.
local sink, consumer, keep = ARGV[2], ARGV[3], ARGV[5]
local most_letters, repeated = tonumber(ARGV[4]), tonumber(ARGV[6])
local DEAD, PARTS = PREFIX .. 'dead', PREFIX .. 'parts:' .. sink
local LONG_AGO_MS = 86400000
local others = others_than(sink)
local settled, sums = 0, {accepted = 0, expired = 0, dropped = 0, dead = 0}
local gone, weights = 0, 0
local at = 7
while at <= #ARGV do
  local id, samples, bytes, fates = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), ARGV[at + 7]
  local accepted, expired = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local dropped, dead = tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
  at = at + 8
  local row = taken(sink, id)
  if row and row[2] == consumer then
    sums.accepted, sums.expired = sums.accepted + accepted, sums.expired + expired
    sums.dropped, sums.dead = sums.dropped + dropped, sums.dead + dead
    if fates == '' then
      settled = settled + 1
      acknowledge(sink, id)
      if let_go(sink, others, id, keep) then gone, weights = gone + samples, weights + weight(bytes) end
    else
      redis.call('XCLAIM', SAMPLES, sink, consumer, 0, id, 'IDLE', LONG_AGO_MS, 'RETRYCOUNT', 0, 'JUSTID')
      if string.find(fates, '[^%z]') then redis.call('HSET', PARTS, id, fates) end
    end
    for i = 0, dead - 1 do redis.call('XADD', DEAD, '*', 'sink', sink, 'letter', ARGV[at + i]) end
  end
  at = at + dead
end
let_go_of(gone, weights)
if repeated > 0 and redis.call('HEXISTS', SINKS, sink) == 1 then
  redis.call('HINCRBY', PREFIX .. 'books:' .. sink, 'repeated', repeated)
end
local ended = 0
for name, count in pairs(sums) do
  ended = ended + count
  if count ~= 0 then redis.call('HINCRBY', PREFIX .. 'books:' .. sink, name, count) end
end
if ended ~= 0 then redis.call('HINCRBY', PREFIX .. 'books:' .. sink, 'queued', -ended) end
-- Past the bound the oldest dead letters go, and are counted.
if sums.dead > 0 then
  local over = redis.call('XLEN', DEAD) - most_letters
  if over > 0 then
    for _, row in ipairs(redis.call('XRANGE', DEAD, '-', '+', 'COUNT', over)) do
      redis.call('XDEL', DEAD, row[1])
      local books = PREFIX .. 'books:' .. row[2][2]
      redis.call('HINCRBY', books, 'dead', -1)
      redis.call('HINCRBY', books, 'dropped', 1)
    end
  end
end
return settled
