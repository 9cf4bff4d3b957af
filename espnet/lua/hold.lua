-- Gives a consumer what it took before, or what others left lying, for its own anew. (sinks.lua comes before this.)
--
-- ARGV  2 sink   3 consumer   4 most entries   5 id after which to go on with what is its own, '' for the others'
--       6 ms without a word after which others' are left lying, then ids of which the consumer knows all
--
-- An entry that was marked (mark.lua), and of which nobody knows what came of it, may be with the sink: its
-- open samples are booked as repeated, and the mark is taken away. Returns the entries, oldest first, each with
-- what became of its samples so far, or ''.
local sink, consumer, most, after, silence_ms = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local known, found, repeated = {}, {}, 0
for i = 7, #ARGV do known[ARGV[i]] = true end

local function hold(id, deliveries)
  local row = redis.call('XRANGE', SAMPLES, id, id)[1]
  if not row then return acknowledge(sink, id) end -- somebody deleted it by hand
  local claim = {'XCLAIM', SAMPLES, sink, consumer, 0, id, 'JUSTID'}
  if not known[id] then
    if deliveries > 0 then repeated = repeated + samples_of(row) - finished(sink, id) end
    claim[8], claim[9] = 'RETRYCOUNT', 0
  end
  redis.call(unpack(claim))
  row[3] = redis.call('HGET', PREFIX .. 'parts:' .. sink, id) or ''
  found[#found + 1] = row
end

repeat
  local rows
  if after ~= '' then
    rows = redis.pcall('XPENDING', SAMPLES, sink, '(' .. after, '+', most, consumer)
  else
    rows = redis.pcall('XPENDING', SAMPLES, sink, 'IDLE', silence_ms, '-', '+', most)
  end
  if rows.err then
    -- There is no such sink any more.
    return string.find(rows.err, 'NOGROUP') and found or rows
  end
  for _, row in ipairs(rows) do hold(row[1], row[4]) end
until #found > 0 or #rows == 0
if repeated > 0 then redis.call('HINCRBY', PREFIX .. 'books:' .. sink, 'repeated', repeated) end
return found
