-- Puts devices where they belong in the schedule. (queues.lua comes before this.)
--
-- ARGV  2 what to do   3 date, Unix seconds   4 a shard, '' for none   5… ids
--
-- 'hurry': due at that date, unless they are due earlier, and whoever has them; once more where a visit is
-- under way. 'pool': taken from whoever
-- has them, and put into the pool of the shard with that date. 'remove': taken from whoever has them.
-- Whoever loses one to the pool is told with its next claim. Of what is removed, nothing is left, not
-- even that: its connection is closed when nobody has wanted it for long.
local what, date, shard = ARGV[2], ARGV[3], ARGV[4]
local found = what == 'hurry' and queues()
for i = 5, #ARGV do
  if what == 'hurry' then
    for _, queue in ipairs(found) do redis.call('ZADD', queue, 'XX', 'LT', date, ARGV[i]) end
    if redis.call('EXISTS', PREFIX .. 'lock:' .. ARGV[i]) == 1 then redis.call('HSET', HURRIED, ARGV[i], date) end
  else
    redis.call('HDEL', HURRIED, ARGV[i])
    take_away({ARGV[i]}, '', what == 'remove')
  end
  if what == 'pool' then
    if shard ~= '' then redis.call('SADD', SHARDS, shard) end
    redis.call('ZADD', shard == '' and DUE or DUE .. '@' .. shard, date, ARGV[i])
  end
end
