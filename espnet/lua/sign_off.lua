-- A collector is at work no more: what it had goes back at once. (queues.lua comes before this.)
--
-- KEYS  1 collectors
-- ARGV  2 holder
redis.call('ZREM', KEYS[1], ARGV[2])
give_back(ARGV[2])
