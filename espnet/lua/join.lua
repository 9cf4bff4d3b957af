-- Makes a sink a reader of the stream, from its very beginning. (sinks.lua comes before this.)
--
-- ARGV  2 sink   3 now, Unix seconds
--
-- What was taken away from the stream by hand is in the books as dropped. Where the sink's group was, all that
-- is in the stream goes to it again, and is booked as repeated.
-- Returns 1 if the sink is new.
local sink, is_new = ARGV[2], redis.call('HEXISTS', SINKS, ARGV[2]) == 0
local books = PREFIX .. 'books:' .. sink
write_off()
if is_new then
  redis.pcall('XGROUP', 'DESTROY', SAMPLES, sink)
  redis.call('DEL', books)
end
if has_group(sink) then return 0 end
local problem = open_group(sink)
if problem then return problem end
local queued = tonumber(redis.call('HGET', BOOKS, 'queued') or '0')
local more = queued - tonumber(redis.call('HGET', books, 'queued') or '0')
redis.call('HINCRBY', books, 'collected', math.max(more, 0))
redis.call('HINCRBY', books, 'dropped', math.max(0 - more, 0))
redis.call('HSET', books, 'queued', queued)
if not is_new then redis.call('HINCRBY', books, 'repeated', queued) end
redis.call('HSETNX', SINKS, sink, ARGV[3])
return is_new and 1 or 0
