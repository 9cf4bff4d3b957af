-- Makes a sink a reader of the stream, from its very beginning. (sinks.lua comes before this.)
--
-- ARGV  2 sink   3 now, Unix seconds
--
-- Where the stream was taken away under a sink, what waited in it is in the books as dropped.
-- Returns 1 if the sink is new.
local sink, is_new = ARGV[2], redis.call('HEXISTS', SINKS, ARGV[2]) == 0
local books, waiting = PREFIX .. 'books:' .. sink, PREFIX .. 'waiting:' .. sink
if is_new then redis.pcall('XGROUP', 'DESTROY', SAMPLES, sink) end
local made = redis.pcall('XGROUP', 'CREATE', SAMPLES, sink, '0', 'MKSTREAM')
if made.err then
  if string.find(made.err, 'BUSYGROUP') then return 0 end
  return made
end
if redis.call('XLEN', SAMPLES) == 0 then redis.call('HSET', BOOKS, 'queued', 0, 'bytes', 0) end
local queued = tonumber(redis.call('HGET', BOOKS, 'queued') or '0')
local lost = tonumber(redis.call('HGET', books, 'queued') or '0')
redis.call('HINCRBY', books, 'collected', queued)
redis.call('HINCRBY', books, 'dropped', lost)
redis.call('HSET', books, 'queued', queued)
redis.call('DEL', waiting)
redis.call('RPUSH', waiting, '0-0 +')
redis.call('HSETNX', SINKS, sink, ARGV[3])
return is_new and 1 or 0
