-- Ends polls: stores what they saw, queues their samples, sets the next date and releases the locks.
-- (sinks.lua and queues.lua come before this.)
--
-- KEYS  1 readings (hash id → record)   2 faults (hash id → record)   3 memory (hash id → record)
-- ARGV  1 prefix of all keys   2 most samples the stream may hold   3 most bytes   4 for how many ms an entry
--       is its taker's   5 the polls as one MessagePack array, which costs both sides less than an argument for
--       each; of each poll, one after the other:
--       id, token, next date (Unix seconds), reading or '', fault ('' leaves it, '-' removes it),
--       samples in the batch, batch or '', samples refused at the gate, memory ('' leaves it)
--
-- Only the holder's word counts: a poll whose lock is somebody else's, or is gone, changes nothing. That
-- also makes the call safe to repeat when its answer was lost: the locks of the first run are gone.
--
-- Returns the ids whose polls did not count.
local FIELDS = 9
local given = cmsgpack.unpack(ARGV[5])
local polls = #given / FIELDS
-- Most entries that one commit looks at, and removes, to keep to the bounds: it queues 256 at most.
local LOOKS, DROPS = 1024, 512

local locks = {}
for i = 1, polls do locks[i] = PREFIX .. 'lock:' .. given[(i - 1) * FIELDS + 1] end
local held = redis.call('MGET', unpack(locks))

write_off()
local lost, release, dates, readings, faults, healed, memory = {}, {}, {}, {}, {}, {}, {}
local collected, refused, bytes, first = 0, 0, 0, nil
for i = 1, polls do
  local at = (i - 1) * FIELDS
  local id, fault, samples, batch = given[at + 1], given[at + 5], given[at + 6], given[at + 7]
  if held[i] ~= given[at + 2] then
    lost[#lost + 1] = id
  else
    release[#release + 1] = locks[i]
    dates[#dates + 1] = given[at + 3]
    dates[#dates + 1] = id
    if given[at + 4] ~= '' then
      readings[#readings + 1] = id
      readings[#readings + 1] = given[at + 4]
    end
    if fault == '-' then
      healed[#healed + 1] = id
    elseif fault ~= '' then
      faults[#faults + 1] = id
      faults[#faults + 1] = fault
    end
    if samples > 0 then
      local added = redis.call('XADD', SAMPLES, '*', 'n', samples, 'batch', batch)
      first = first or added
      collected, bytes = collected + samples, bytes + weight(#batch)
    end
    refused = refused + given[at + 8]
    if given[at + 9] ~= '' then
      memory[#memory + 1] = id
      memory[#memory + 1] = given[at + 9]
    end
  end
end

if #release > 0 and redis.call('EXISTS', HURRIED) == 1 then
  for i = 1, #dates, 2 do
    local wanted = redis.call('HGET', HURRIED, dates[i + 1])
    if wanted then
      redis.call('HDEL', HURRIED, dates[i + 1])
      if tonumber(wanted) < tonumber(dates[i]) then dates[i] = wanted end
    end
  end
end

if #release > 0 then
  -- Nearly always all are the collector's own. It may have been thought dead meanwhile, or be a command.
  local holder = string.match(given[2], '^(.*):[^:]*$')
  if redis.call('ZADD', queue_of(holder), 'XX', 'CH', unpack(dates)) < #release then
    for i = 1, #dates, 2 do
      local has_place = false
      for _, queue in ipairs(queues()) do
        if redis.call('ZSCORE', queue, dates[i + 1]) then
          redis.call('ZADD', queue, dates[i], dates[i + 1])
          has_place = true
        end
      end
      if not has_place then redis.call('ZADD', pool_of(holder), dates[i], dates[i + 1]) end
    end
  end
  redis.call('DEL', unpack(release))
end
if #readings > 0 then redis.call('HSET', KEYS[1], unpack(readings)) end
if #memory > 0 then redis.call('HSET', KEYS[3], unpack(memory)) end
if #faults > 0 then redis.call('HSET', KEYS[2], unpack(faults)) end
if #healed > 0 then redis.call('HDEL', KEYS[2], unpack(healed)) end
if refused > 0 then redis.call('HINCRBY', BOOKS, 'refused', refused) end
if collected == 0 then return lost end

redis.call('HINCRBY', BOOKS, 'collected', collected)
local queued = redis.call('HINCRBY', BOOKS, 'queued', collected)
bytes = redis.call('HINCRBY', BOOKS, 'bytes', bytes)
local sinks = redis.call('HKEYS', SINKS)
for _, sink in ipairs(sinks) do
  redis.call('HINCRBY', PREFIX .. 'books:' .. sink, 'collected', collected)
  redis.call('HINCRBY', PREFIX .. 'books:' .. sink, 'queued', collected)
end

-- Past the bounds the oldest go, and are counted; not under the hands of an uploader, if that is possible:
-- for its sake a quarter more is kept, rather than that the newest go.
local most_samples, most_bytes, held_ms = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if queued <= most_samples and bytes <= most_bytes then return lost end
if queued > 1.25 * most_samples or bytes > 1.25 * most_bytes then held_ms = 0 end

local ranges = {}
for _, sink in ipairs(sinks) do ranges[sink] = ranges_of(sink) end

local has_spared = false
local function drop(id, samples, size)
  local waiting = {}
  for _, sink in ipairs(sinks) do
    local row = taken(sink, id)
    if row and row[3] < held_ms then
      has_spared = true
      return false
    end
    if row or is_in(ranges[sink], id) then waiting[#waiting + 1] = sink end
  end
  for _, sink in ipairs(waiting) do
    local left = samples - finished(sink, id)
    acknowledge(sink, id)
    redis.call('HINCRBY', PREFIX .. 'books:' .. sink, 'dropped', left)
    redis.call('HINCRBY', PREFIX .. 'books:' .. sink, 'queued', 0 - left)
  end
  redis.call('XDEL', SAMPLES, id)
  redis.call('HINCRBY', BOOKS, 'dropped', samples)
  queued = redis.call('HINCRBY', BOOKS, 'queued', 0 - samples)
  bytes = redis.call('HINCRBY', BOOKS, 'bytes', -size)
  return true
end

local from, looks, drops = '-', 0, 0
while looks < LOOKS and drops < DROPS do
  local oldest = redis.call('XRANGE', SAMPLES, from, '+', 'COUNT', 64)
  if #oldest == 0 then return lost end
  for _, entry in ipairs(oldest) do
    if queued <= most_samples and bytes <= most_bytes then return lost end
    if has_spared and entry[1] == first then return lost end
    looks = looks + 1
    if drop(entry[1], samples_of(entry), weight(bytes_of(entry))) then drops = drops + 1 end
    from = '(' .. entry[1]
  end
end
return lost
