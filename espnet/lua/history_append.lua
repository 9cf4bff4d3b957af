-- Keeps readings: each goes to the end of its device's tail in the step that settles its entry, exactly once.
--
-- ARGV  1 prefix   2 number of heads   then the heads, then for each entry: its id on the stream, its samples,
--       device id ('' keeps nothing), which head is its row's (1 is the first), row, rows of a full tail
--
-- A row is 'v', four bytes that stand for the names of its values, then time and values (8 bytes each). A
-- head is 'n', the same four bytes, then the names; it stands before the first row that needs it. What is
-- already settled was kept by whoever settled it. A device that is not registered has no past.
--
-- Returns the number of rows that were kept, then the ids of devices whose tails are full.

-- >>> settling: the one place that knows of sinks and books
local PREFIX = ARGV[1]
local function settled(id, samples)
  return redis.call('XACK', PREFIX .. 'samples', 'history', id) == 1
end
-- <<<

local DEVICES, STEM, FIELDS = PREFIX .. 'devices', PREFIX .. 'history:', 6
local kept, full, told = 0, {}, {}
for at = 3 + tonumber(ARGV[2]), #ARGV, FIELDS do
  local id, row = ARGV[at + 2], ARGV[at + 4]
  local is_mine = settled(ARGV[at], tonumber(ARGV[at + 1]))
  if is_mine and id ~= '' and redis.call('HEXISTS', DEVICES, id) == 1 then
    local tail = STEM .. id .. ':tail'
    local last = redis.call('LINDEX', tail, -1)
    if not last or string.sub(last, 2, 5) ~= string.sub(row, 2, 5) then
      redis.call('RPUSH', tail, ARGV[2 + tonumber(ARGV[at + 3])])
    end
    kept = kept + 1
    if redis.call('RPUSH', tail, row) >= tonumber(ARGV[at + 5]) and not told[id] then
      told[id] = true
      full[#full + 1] = id
    end
  end
end
return {kept, full}
