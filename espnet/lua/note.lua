-- Writes down how far a rollout is: only for its driver, and only while it is this rollout.
--
-- KEYS  1 driver (string: token)   2 rollout (hash: id, record)   3 its boards (hash id → record)
-- ARGV  1 token   2 the rollout's id
--       3 the rollout's record as the driver read it, '' to leave it   4 its new record
--       then pairs: a board's id, its new record
--
-- A person may stop the rollout at any moment: what he wrote is not written over by who did not read it.
-- Returns whether it was written.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[2], 'id') ~= ARGV[2] then return 0 end
if ARGV[3] ~= '' then
  if redis.call('HGET', KEYS[2], 'record') ~= ARGV[3] then return 0 end
  redis.call('HSET', KEYS[2], 'record', ARGV[4])
end
for i = 5, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
return 1
