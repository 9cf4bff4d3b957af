-- Hands out a fence above one that a board has seen: after Redis lost its counter, a board knows more.
--
-- KEYS  1 fence (counter)   2 the device's lock
-- ARGV  1 the highest number that the board has seen   2 token   3 above which nobody is followed
--
-- What a board has seen may be anybody's invention, and the counter is everybody's: so it is never lifted to
-- where it would come to an end.
-- Only for the lock's holder: to anyone else a higher number is the sign that he is too late.
-- Returns the fence, or false.
if redis.call('GET', KEYS[2]) ~= ARGV[2] or tonumber(ARGV[1]) > tonumber(ARGV[3]) then return false end
if tonumber(redis.call('GET', KEYS[1]) or '0') < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[1])
end
return redis.call('INCR', KEYS[1])
