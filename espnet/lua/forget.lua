-- Forgets a sink with its books and its dead letters; lets go of what only it waited for, a part at a time.
-- (sinks.lua comes before this.)
--
-- ARGV  2 sink   3 id after which to go on   4 most entries to look at
--
-- The sink is gone with the first part. Returns the id to go on after, '' at the end, or false where there
-- was no such sink to begin with.
local sink = ARGV[2]
if ARGV[3] == '0-0' then
  if redis.call('HDEL', SINKS, sink) == 0 then return false end
  redis.pcall('XGROUP', 'DESTROY', SAMPLES, sink)
  redis.call('DEL', PREFIX .. 'waiting:' .. sink, PREFIX .. 'books:' .. sink, PREFIX .. 'parts:' .. sink)
  redis.call('HDEL', PREFIX .. 'sink_states', sink)
  for _, row in ipairs(redis.call('XRANGE', PREFIX .. 'dead', '-', '+')) do
    if row[2][2] == sink then redis.call('XDEL', PREFIX .. 'dead', row[1]) end
  end
end
local others = others_than('')
-- The last real sink leaves samples to the next one.
if #others == 0 or (#others == 1 and others[1][1] == HISTORY) then return '' end
local rows = redis.call('XRANGE', SAMPLES, '(' .. ARGV[3], '+', 'COUNT', ARGV[4])
local gone, weights = 0, 0
for _, row in ipairs(rows) do
  if let_go('', others, row[1], '0') then
    gone, weights = gone + samples_of(row), weights + weight(bytes_of(row))
  end
end
let_go_of(gone, weights)
return rows[1] and rows[#rows][1] or ''
