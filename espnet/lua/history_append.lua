-- Keeps readings: each goes to the end of its device's tail in the step that settles its entry, exactly once.
-- (sinks.lua comes before this.)
--
-- ARGV  2 '1' where samples are kept until there is a sink   3 the entries as one MessagePack array; of each, one
--       after the other: its id on the stream, its samples, its batch's bytes, device id ('' keeps nothing),
--       which head is its row's (1 is the first), bytes of its row, rows of a full tail
--       4 all rows, one after the other   then the heads
--
-- A row is 'v', four bytes that stand for the names of its values, then time and values (8 bytes each). A
-- head is 'n', the same four bytes, then the names; it stands before the first row that needs it. What is
-- already settled was kept by whoever settled it. A device that is not registered has no past.
--
-- Returns the number of rows that were kept, then the ids of devices whose tails are full.

local KEEP, ROWS, HEADS = ARGV[2], ARGV[4], 4
local WAITING = others_than(HISTORY)
local DEVICES, STEM, FIELDS = PREFIX .. 'devices', PREFIX .. 'history:', 7
local given = cmsgpack.unpack(ARGV[3])
local kept, full, told, ended, from = 0, {}, {}, 0, 1
local gone, weights = 0, 0

for at = 1, #given, FIELDS do
  local entry, samples, id = given[at], given[at + 1], given[at + 3]
  local to = from + given[at + 5]
  -- Whether it was this group's to settle; it is settled now.
  if redis.call('XACK', SAMPLES, HISTORY, entry) == 1 then
    ended = ended + samples
    if let_go(HISTORY, WAITING, entry, KEEP) then
      gone, weights = gone + samples, weights + weight(given[at + 2])
    end
    if id ~= '' and redis.call('HEXISTS', DEVICES, id) == 1 then
      local tail, row = STEM .. id .. ':tail', string.sub(ROWS, from, to - 1)
      local last = redis.call('LINDEX', tail, -1)
      local rows
      if last and string.sub(last, 2, 5) == string.sub(row, 2, 5) then
        rows = redis.call('RPUSH', tail, row)
      else
        rows = redis.call('RPUSH', tail, ARGV[HEADS + given[at + 4]], row)
      end
      kept = kept + 1
      if rows >= given[at + 6] and not told[id] then
        told[id] = true
        full[#full + 1] = id
      end
    end
  end
  from = to
end
let_go_of(gone, weights)
if ended > 0 then
  redis.call('HINCRBY', PREFIX .. 'books:history', 'accepted', ended)
  redis.call('HINCRBY', PREFIX .. 'books:history', 'queued', -ended)
end
return {kept, full}
