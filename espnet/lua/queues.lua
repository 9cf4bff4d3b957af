-- The beginning of every script that deals with the schedule: who polls which device.
--
-- ARGV[1] is the prefix of all keys. Each device is in exactly one of these sorted sets (id → Unix seconds
-- when it is due): the queue of the collector that polls it, `due:HOLDER`, or the pool of those that nobody
-- has, `due`, of which collectors help themselves. Devices of a shard have a pool of their own, `due@SHARD`,
-- and collectors of a shard, whose names begin with ROLE/SHARD@, help themselves from that one only.
local PREFIX = ARGV[1]
local DUE, PRESENCE, SHARDS = PREFIX .. 'due', PREFIX .. 'presence', PREFIX .. 'shards'
-- What was wanted at once in the middle of a visit (id → date): the visit may not know why, and sets a date later.
local HURRIED = PREFIX .. 'hurried'

local function queue_of(holder) return DUE .. ':' .. holder end

-- What others took from a collector since its last claim.
local function taken_of(holder) return PREFIX .. 'taken:' .. holder end

local function pool_of(holder)
  local shard = string.match(holder, '^[^/@]*/([^@]*)@')
  return shard and DUE .. '@' .. shard or DUE
end

-- Every sorted set that may hold a device.
local function queues()
  local found = {DUE}
  for _, shard in ipairs(redis.call('SMEMBERS', SHARDS)) do found[#found + 1] = DUE .. '@' .. shard end
  for _, holder in ipairs(redis.call('ZRANGE', PRESENCE, 0, -1)) do found[#found + 1] = queue_of(holder) end
  return found
end

-- Takes devices out of every queue but one. Unless told not to, it tells the collectors that had some: they
-- have connections to be closed. (Who had one of them is told of all; the others are none of his anyway.)
local function take_away(ids, but, is_silent)
  local pools = {DUE}
  for _, shard in ipairs(redis.call('SMEMBERS', SHARDS)) do pools[#pools + 1] = DUE .. '@' .. shard end
  for _, pool in ipairs(pools) do
    if pool ~= but then redis.call('ZREM', pool, unpack(ids)) end
  end
  for _, holder in ipairs(redis.call('ZRANGE', PRESENCE, 0, -1)) do
    local queue = queue_of(holder)
    if queue ~= but and redis.call('ZREM', queue, unpack(ids)) > 0 and not is_silent then
      redis.call('SADD', taken_of(holder), unpack(ids))
    end
  end
end

-- Gives back what a collector had.
local function give_back(holder)
  local queue, pool = queue_of(holder), pool_of(holder)
  redis.call('ZREM', PRESENCE, holder)
  redis.call('DEL', taken_of(holder))
  if redis.call('EXISTS', queue) == 0 then return end
  redis.call('ZUNIONSTORE', pool, 2, pool, queue, 'AGGREGATE', 'MIN')
  redis.call('DEL', queue)
end
