-- When devices are due, and who has them. (queues.lua comes before this.)
--
-- ARGV  2… ids; none: all devices
--
-- Returns of each device that is found: id, date (Unix seconds), the queue that it is in without the prefix.
local found = {}
for _, queue in ipairs(queues()) do
  local name = string.sub(queue, #PREFIX + 1)
  if #ARGV == 1 then
    local rows = redis.call('ZRANGE', queue, 0, -1, 'WITHSCORES')
    for i = 1, #rows, 2 do
      found[#found + 1] = {rows[i], rows[i + 1], name}
    end
  end
  for i = 2, #ARGV do
    local date = redis.call('ZSCORE', queue, ARGV[i])
    if date then found[#found + 1] = {ARGV[i], date, name} end
  end
end
return found
