-- The last readings of devices by their names.
--
-- KEYS  1 names (hash name → id)   2 readings (hash id → record)
-- ARGV  the names, at least one
--
-- Returns a reading or false for each name.
local ids, found = redis.call('HMGET', KEYS[1], unpack(ARGV)), {}
for i = 1, #ARGV do found[i] = ids[i] and redis.call('HGET', KEYS[2], ids[i]) end
return found
