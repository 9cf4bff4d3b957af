-- Ends polls: stores what they saw, queues their samples, sets the next date and releases the locks.
--
-- KEYS  1 due   2 readings (hash id → record)   3 faults (hash id → record)   4 samples (stream)   5 books (hash)
--       6 memory (hash id → record)
-- ARGV  1 prefix of lock keys   2 most samples the stream may hold, then for each poll:
--       id, token, next date (Unix seconds), reading or '', fault ('' leaves it, '-' removes it),
--       samples in the batch, batch or '', samples refused at the gate, memory ('' leaves it)
--
-- Only the holder's word counts: a poll whose lock is somebody else's, or is gone, changes nothing. That
-- also makes the call safe to repeat when its answer was lost: the locks of the first run are gone.
--
-- Returns the ids whose polls did not count.
local FIELDS = 9
local polls = (#ARGV - 2) / FIELDS

local locks = {}
for i = 1, polls do locks[i] = ARGV[1] .. ARGV[3 + (i - 1) * FIELDS] end
local held = redis.call('MGET', unpack(locks))

local lost, release, dates, readings, faults, healed, memory = {}, {}, {}, {}, {}, {}, {}
local collected, refused = 0, 0
for i = 1, polls do
  local at = 2 + (i - 1) * FIELDS
  local id, fault, samples = ARGV[at + 1], ARGV[at + 5], tonumber(ARGV[at + 6])
  if held[i] ~= ARGV[at + 2] then
    lost[#lost + 1] = id
  else
    release[#release + 1] = locks[i]
    dates[#dates + 1] = ARGV[at + 3]
    dates[#dates + 1] = id
    if ARGV[at + 4] ~= '' then
      readings[#readings + 1] = id
      readings[#readings + 1] = ARGV[at + 4]
    end
    if fault == '-' then
      healed[#healed + 1] = id
    elseif fault ~= '' then
      faults[#faults + 1] = id
      faults[#faults + 1] = fault
    end
    if samples > 0 then
      redis.call('XADD', KEYS[4], '*', 'n', samples, 'batch', ARGV[at + 7])
      collected = collected + samples
    end
    refused = refused + tonumber(ARGV[at + 8])
    if ARGV[at + 9] ~= '' then
      memory[#memory + 1] = id
      memory[#memory + 1] = ARGV[at + 9]
    end
  end
end

if #release > 0 then
  redis.call('ZADD', KEYS[1], unpack(dates))
  redis.call('DEL', unpack(release))
end
if #readings > 0 then redis.call('HSET', KEYS[2], unpack(readings)) end
if #memory > 0 then redis.call('HSET', KEYS[6], unpack(memory)) end
if #faults > 0 then redis.call('HSET', KEYS[3], unpack(faults)) end
if #healed > 0 then redis.call('HDEL', KEYS[3], unpack(healed)) end
if refused > 0 then redis.call('HINCRBY', KEYS[5], 'refused', refused) end

if collected > 0 then
  redis.call('HINCRBY', KEYS[5], 'collected', collected)
  local queued = redis.call('HINCRBY', KEYS[5], 'queued', collected)
  local bound = tonumber(ARGV[2])
  -- Past the bound the oldest go, and are counted.
  while queued > bound do
    local oldest = redis.call('XRANGE', KEYS[4], '-', '+', 'COUNT', 100)
    if #oldest == 0 then break end
    for _, entry in ipairs(oldest) do
      if queued <= bound then break end
      local n = tonumber(entry[2][2])
      redis.call('XDEL', KEYS[4], entry[1])
      queued = redis.call('HINCRBY', KEYS[5], 'queued', -n)
      redis.call('HINCRBY', KEYS[5], 'dropped', n)
    end
  end
end
return lost
