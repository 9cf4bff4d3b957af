-- Claims devices whose time has come: takes their locks and hands out fences, all or nothing per device.
-- (queues.lua comes before this.)
--
-- KEYS  1 devices (hash id → record)   2 faults (hash id → record)   3 fence (counter)
--       4 collectors (zset name → Unix seconds last seen)            5 jobs (hash id → records)
--       6 memory (hash id → record)    7 jobs_version (counter)
-- ARGV  2 now, Unix seconds   3 most devices to claim   4 lock TTL, ms   5 holder
--       6 for how many seconds the holder is present by this   7 seconds after which a collector that says
--       nothing is forgotten   8, 9 now of the first claim of this holder since its latest answer that
--       had none, '' where there is none, and of the latest one ever, 0 for never
--
-- A token is "holder:fence". Fences only grow, so no two grants share a token, not even two grants of
-- one process. The lock is what redis-py's Lock writes: SET key token NX PX ttl.
--
-- A claimed device is due again when its lock ends: a collector that dies loses nothing. A device whose
-- lock somebody else holds is looked at again within a second, and does not stand in the way till then.
--
-- The work is shared here, too. The queues of collectors that are no longer present go back to the pool; who
-- has fewer devices than is fair takes of the pool, and who has more gives some back. Shares are equal but for
-- one device, and a device stays with its collector, which keeps a connection to it. So it is given back
-- between two visits only, and some time before the next one: by then that connection is closed. What is late,
-- because whoever has it stands still, has too much to do or seldom looks, is taken by whoever looks first
-- and has room beside what is its own. Who seldom looks, or whose clock is behind, is given nothing that would
-- be taken from it again.
--
-- Who had no answer itself a moment ago takes nobody for dead or late: Redis may have been away for all of them.
--
-- What an older version of EspNet puts into the pool (it knows no other place) may be in a queue as well.
-- Whoever takes it from the pool takes it from there, too.
--
-- Returns the version of all jobs ('' if there never were any); whether the holder was absent, or did not hear
-- what it lost, so that whatever it had may be somebody else's now; the ids that it gave back, or that were
-- taken from it; then for each device claimed {id, device, fault or false, the time it was due, token, fence,
-- jobs or false, memory or false}.
local now, limit, ttl_ms, holder = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local mine, pool = queue_of(holder), pool_of(holder)
-- Most devices that change hands in one call; how long before its date a device may be given back, in seconds.
local MOVES, AHEAD_S = 1024, 0.1
-- What has been due since before this is late, Unix seconds.
local LATE = now - 0.4 * tonumber(ARGV[6])
local has_silence = tonumber(ARGV[9]) > LATE

local last_look = tonumber(redis.call('ZSCORE', KEYS[4], holder) or 0)
redis.call('ZADD', KEYS[4], now, holder)
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now - tonumber(ARGV[7]))

local was_absent = redis.call('ZSCORE', PRESENCE, holder) and 0 or 1
redis.call('ZADD', PRESENCE, now + tonumber(ARGV[6]), holder)
if not has_silence then
  for _, absent in ipairs(redis.call('ZRANGEBYSCORE', PRESENCE, '-inf', '(' .. ARGV[2])) do give_back(absent) end
end

local like = {}
for _, other in ipairs(redis.call('ZRANGE', PRESENCE, 0, -1)) do
  if pool_of(other) == pool then like[#like + 1] = other end
end
table.sort(like)
if ARGV[8] ~= '' and last_look >= tonumber(ARGV[8]) and #like > 1 then was_absent = 1 end

-- How many devices each has more than are its by right (all that there are, by as many as there are, and one of
-- the rest).
local over, total = {}, redis.call('ZCARD', pool)
for _, other in ipairs(like) do
  over[other] = redis.call('ZCARD', queue_of(other))
  total = total + over[other]
end
for rank, other in ipairs(like) do
  over[other] = over[other] - math.floor(total / #like) - (rank <= total % #like and 1 or 0)
end

-- Whether somebody who has too few will take what is given back, before it is late.
local function is_wanted()
  for _, other in ipairs(like) do
    if over[other] < 0 and tonumber(redis.call('ZSCORE', KEYS[4], other) or 0) > LATE then return true end
  end
end

-- Takes what was found, ids with their dates, from wherever it is.
local function take(found)
  if #found == 0 then return end
  local ids, dates = {}, {}
  for i = 1, #found, 2 do
    ids[#ids + 1] = found[i]
    dates[#dates + 1] = found[i + 1]
    dates[#dates + 1] = found[i]
  end
  take_away(ids, mine)
  redis.call('ZADD', mine, unpack(dates))
end

-- Evenly spread over their dates, so that the others get quick ones and slow ones; none that is being visited.
local function give(most)
  local soon = redis.call('ZCOUNT', mine, '-inf', '(' .. string.format('%.6f', now + AHEAD_S))
  local found, given, count = {}, {}, redis.call('ZCARD', mine) - soon
  most = math.min(most, count, MOVES)
  for k = 0, most - 1 do
    local at = soon + math.floor((k + 0.5) * count / most)
    found[#found + 1] = redis.call('ZRANGE', mine, at, at, 'WITHSCORES')
  end
  for _, row in ipairs(found) do
    if redis.call('EXISTS', PREFIX .. 'lock:' .. row[1]) == 0 then
      redis.call('ZREM', mine, row[1])
      redis.call('ZADD', pool, row[2], row[1])
      given[#given + 1] = row[1]
    end
  end
  return given
end

-- Returns for how many more there is room.
local function take_late(queue, room)
  if room < 1 then return 0 end
  local found = redis.call('ZRANGEBYSCORE', queue, '-inf', LATE, 'WITHSCORES', 'LIMIT', 0, room)
  take(found)
  return room - #found / 2
end

local given = {}
if over[holder] < 0 then
  take(redis.call('ZRANGE', pool, 0, math.min(0 - over[holder], MOVES) - 1, 'WITHSCORES'))
elseif over[holder] > 0 and is_wanted() then
  given = give(over[holder])
end
for _, id in ipairs(redis.call('SMEMBERS', taken_of(holder))) do given[#given + 1] = id end
redis.call('DEL', taken_of(holder))
if limit > 0 and not has_silence then
  local room = take_late(pool, limit - redis.call('ZCOUNT', mine, '-inf', now))
  for _, other in ipairs(like) do
    if other ~= holder then room = take_late(queue_of(other), room) end
  end
end

local claimed = {}
local version = redis.call('GET', KEYS[7]) or ''

-- Looks at the next so many that are due; returns how many there were.
local function look_at(most)
  local due = redis.call('ZRANGEBYSCORE', mine, '-inf', now, 'WITHSCORES', 'LIMIT', 0, most)
  local count = #due / 2
  if count == 0 then return 0 end

  local ids = {}
  for i = 1, count do ids[i] = due[2 * i - 1] end
  local devices = redis.call('HMGET', KEYS[1], unpack(ids))
  local faults = redis.call('HMGET', KEYS[2], unpack(ids))
  local jobs, memory = {}, {}
  if version ~= '' then
    jobs = redis.call('HMGET', KEYS[5], unpack(ids))
    memory = redis.call('HMGET', KEYS[6], unpack(ids))
  end
  local fence = redis.call('INCRBY', KEYS[3], count) - count

  local next_look = {}
  for i = 1, count do
    local id, lock = ids[i], PREFIX .. 'lock:' .. ids[i]
    fence = fence + 1
    if not devices[i] then
      redis.call('ZREM', mine, id)
    else
      local token = holder .. ':' .. string.format('%.0f', fence)
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
  if #next_look > 0 then redis.call('ZADD', mine, unpack(next_look)) end
  return count
end

-- The date of everything that was looked at is now later than now, so this ends.
while #claimed < limit do
  local most = limit - #claimed
  if look_at(most) < most then break end
end
return {version, was_absent, given, claimed}
