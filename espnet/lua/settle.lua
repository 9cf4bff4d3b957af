-- Books what became of samples for a sink; ends the entries that are finished. (sinks.lua comes before this.)
--
-- ARGV  2 sink   3 most dead letters   4 '1' where samples are kept until there is a sink, then for each
--       entry: id, its samples, its batch's bytes, then what is news since the last time: accepted, expired,
--       dropped, dead; '' or, of an unfinished entry, a byte for each sample, zero where it has no fate
--       yet; then each dead letter
--
-- An entry that is no longer in the sink's pending list was settled by somebody else, or dropped.
-- Returns the number of entries that were settled.
local sink, keep = ARGV[2], ARGV[4]
local DEAD, PARTS = PREFIX .. 'dead', PREFIX .. 'parts:' .. sink
local others = others_than(sink)
local settled, sums = 0, {accepted = 0, expired = 0, dropped = 0, dead = 0}
local at = 5
while at <= #ARGV do
  local id, samples, bytes, fates = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), ARGV[at + 7]
  local accepted, expired = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local dropped, dead = tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
  at = at + 8
  local is_ours
  if fates == '' then
    is_ours = redis.call('XACK', SAMPLES, sink, id) == 1
  else
    is_ours = taken(sink, id)
  end
  if is_ours then
    sums.accepted, sums.expired = sums.accepted + accepted, sums.expired + expired
    sums.dropped, sums.dead = sums.dropped + dropped, sums.dead + dead
    for i = 0, dead - 1 do redis.call('XADD', DEAD, '*', 'sink', sink, 'letter', ARGV[at + i]) end
    if fates == '' then
      settled = settled + 1
      redis.call('HDEL', PARTS, id)
      let_go(sink, others, id, samples, bytes, keep)
    else
      redis.call('HSET', PARTS, id, fates)
    end
  end
  at = at + dead
end
local ended = 0
for name, count in pairs(sums) do
  ended = ended + count
  if count ~= 0 then redis.call('HINCRBY', PREFIX .. 'books:' .. sink, name, count) end
end
if ended ~= 0 then redis.call('HINCRBY', PREFIX .. 'books:' .. sink, 'queued', -ended) end
-- Past the bound the oldest dead letters go, and are counted.
if sums.dead > 0 then
  local over = redis.call('XLEN', DEAD) - tonumber(ARGV[3])
  if over > 0 then
    for _, row in ipairs(redis.call('XRANGE', DEAD, '-', '+', 'COUNT', over)) do
      redis.call('XDEL', DEAD, row[1])
      redis.call('HINCRBY', PREFIX .. 'books:' .. row[2][2], 'dead', -1)
      redis.call('HINCRBY', PREFIX .. 'books:' .. row[2][2], 'dropped', 1)
    end
  end
end
return settled
