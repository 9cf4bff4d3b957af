-- Keeps readings: each goes to the end of its device's tail in the step that settles its entry, exactly once.
-- (sinks.lua comes before this.)
--
-- ARGV  2 '1' where samples are kept until there is a sink   3 number of heads   then the heads, then for each
--       entry: its id on the stream, its samples, its batch's bytes, device id ('' keeps nothing), which head is
--       its row's (1 is the first), row, rows of a full tail
--
-- A row is 'v', four bytes that stand for the names of its values, then time and values (8 bytes each). A
-- head is 'n', the same four bytes, then the names; it stands before the first row that needs it. What is
-- already settled was kept by whoever settled it. A device that is not registered has no past.
--
-- Returns the number of rows that were kept, then the ids of devices whose tails are full.

local KEEP = ARGV[2]
local WAITING = others_than(HISTORY)
local ended = 0

-- Whether an entry was this group's to settle; it is settled now.
local function settled(id, samples, bytes)
  if redis.call('XACK', SAMPLES, HISTORY, id) == 0 then return false end
  ended = ended + samples
  let_go(HISTORY, WAITING, id, samples, bytes, KEEP)
  return true
end

local DEVICES, STEM, FIELDS = PREFIX .. 'devices', PREFIX .. 'history:', 7
local kept, full, told = 0, {}, {}
for at = 4 + tonumber(ARGV[3]), #ARGV, FIELDS do
  local id, row = ARGV[at + 3], ARGV[at + 5]
  local is_mine = settled(ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]))
  if is_mine and id ~= '' and redis.call('HEXISTS', DEVICES, id) == 1 then
    local tail = STEM .. id .. ':tail'
    local last = redis.call('LINDEX', tail, -1)
    if not last or string.sub(last, 2, 5) ~= string.sub(row, 2, 5) then
      redis.call('RPUSH', tail, ARGV[3 + tonumber(ARGV[at + 4])])
    end
    kept = kept + 1
    if redis.call('RPUSH', tail, row) >= tonumber(ARGV[at + 6]) and not told[id] then
      told[id] = true
      full[#full + 1] = id
    end
  end
end
if ended > 0 then
  redis.call('HINCRBY', PREFIX .. 'books:history', 'accepted', ended)
  redis.call('HINCRBY', PREFIX .. 'books:history', 'queued', -ended)
end
return {kept, full}
