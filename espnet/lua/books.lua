-- All books at one instant. (sinks.lua comes before this.)
--
-- Returns the stream's own, then for each sink its name, its books and its state or false.
local all = {redis.call('HGETALL', BOOKS)}
for _, sink in ipairs(redis.call('HKEYS', SINKS)) do
  all[#all + 1] = {
    sink,
    redis.call('HGETALL', PREFIX .. 'books:' .. sink),
    redis.call('HGET', PREFIX .. 'sink_states', sink),
  }
end
return all
