-- Forgets consumers of a sink that hold nothing. (sinks.lua comes before this.)
--
-- ARGV  2 sink   3 a consumer that ends now   4 after how many ms of silence others are forgotten
local rows = redis.pcall('XINFO', 'CONSUMERS', SAMPLES, ARGV[2])
if rows.err then return 0 end
local forgotten = 0
for _, row in ipairs(rows) do
  local consumer = {}
  for i = 1, #row, 2 do consumer[row[i]] = row[i + 1] end
  local is_over = consumer.name == ARGV[3] or consumer.idle > tonumber(ARGV[4])
  if consumer.pending == 0 and is_over then
    redis.call('XGROUP', 'DELCONSUMER', SAMPLES, ARGV[2], consumer.name)
    forgotten = forgotten + 1
  end
end
return forgotten
