-- Claims devices whose time has come: takes their locks and hands out fences, all or nothing per device.
--
-- KEYS  1 due (zset id → Unix seconds)   2 devices (hash id → record)   3 faults (hash id → record)
--       4 fence (counter)                5 collectors (zset name → Unix seconds last seen)
--       6 jobs (hash id → records)       7 memory (hash id → record)   8 jobs_version (counter)
-- ARGV  1 now, Unix seconds   2 most devices to claim   3 lock TTL, ms   4 holder   5 prefix of lock keys
--       6 seconds after which a collector that says nothing is forgotten
--
-- A token is "holder:fence". Fences only grow, so no two grants share a token, not even two grants of
-- one process. The lock is what redis-py's Lock writes: SET key token NX PX ttl.
--
-- A claimed device is due again when its lock ends: a collector that dies loses nothing. A device whose
-- lock somebody else holds is looked at again within a second, and does not stand in the way till then.
--
-- Returns the version of all jobs ('' if there never were any), then for each device claimed {id, device,
-- fault or false, the time it was due, token, fence, jobs or false, memory or false}.
local now, ttl_ms = tonumber(ARGV[1]), tonumber(ARGV[3])
redis.call('ZADD', KEYS[5], now, ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now - tonumber(ARGV[6]))

local claimed, limit = {}, tonumber(ARGV[2])
local version = redis.call('GET', KEYS[8]) or ''

-- Looks at the next so many that are due; returns how many there were.
local function look_at(most)
  local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', 0, most)
  local count = #due / 2
  if count == 0 then return 0 end

  local ids = {}
  for i = 1, count do ids[i] = due[2 * i - 1] end
  local devices = redis.call('HMGET', KEYS[2], unpack(ids))
  local faults = redis.call('HMGET', KEYS[3], unpack(ids))
  local jobs, memory = {}, {}
  if version ~= '' then
    jobs = redis.call('HMGET', KEYS[6], unpack(ids))
    memory = redis.call('HMGET', KEYS[7], unpack(ids))
  end
  local fence = redis.call('INCRBY', KEYS[4], count) - count

  local next_look = {}
  for i = 1, count do
    local id, lock = ids[i], ARGV[5] .. ids[i]
    fence = fence + 1
    if not devices[i] then
      redis.call('ZREM', KEYS[1], id)
    else
      local token = ARGV[4] .. ':' .. string.format('%.0f', fence)
      local look = now + ttl_ms / 1000
      if redis.call('SET', lock, token, 'NX', 'PX', ttl_ms) then
        claimed[#claimed + 1] = {
          id, devices[i], faults[i], due[2 * i], token, fence, jobs[i] or false, memory[i] or false,
        }
      else
        local left_ms = redis.call('PTTL', lock)
        if left_ms < 1 or left_ms > 1000 then left_ms = 1000 end
        look = now + left_ms / 1000
      end
      next_look[#next_look + 1] = string.format('%.6f', look)
      next_look[#next_look + 1] = id
    end
  end
  if #next_look > 0 then redis.call('ZADD', KEYS[1], unpack(next_look)) end
  return count
end

-- The date of everything that was looked at is now later than now, so this ends.
while #claimed < limit do
  local most = limit - #claimed
  if look_at(most) < most then break end
end
return {version, claimed}
