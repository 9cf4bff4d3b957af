-- Hands out a fence above one that a board has seen: after Redis lost its counter, a board knows more.
--
-- KEYS  1 fence (counter)
-- ARGV  1 the highest number that the board has seen
if tonumber(redis.call('GET', KEYS[1]) or '0') < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[1])
end
return redis.call('INCR', KEYS[1])
