-- Makes somebody the driver of the rollout, or lets him be it for longer.
--
-- KEYS  1 driver (string: token)
-- ARGV  1 token   2 TTL, ms   3 '1' to give it back instead
--
-- Returns '' when the token's holder is the driver (or gave it back), else the token of who is.
local there = redis.call('GET', KEYS[1])
if ARGV[3] == '1' then
  if there == ARGV[1] then redis.call('DEL', KEYS[1]) end
  return ''
end
if there and there ~= ARGV[1] then return there end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ''
