-- Puts packed blocks in the place of the rows that they hold, and lets go of what is too old or too much.
--
-- ARGV  1 prefix   2 device id   3 its state as it was read ('' if there was none)
--       4 entries of the tail that were packed (0: none, only let go)   5 the last of them   6 its head
--       7 now, Unix seconds   8 bytes that all blocks may have together, then for each level, finest first:
--       seconds that it is kept, bytes that are its own, block or '', '1' if it replaces the last block
--
-- Optimistic: when somebody else has packed this tail since it was read, nothing happens. Rows that came
-- meanwhile stay in the tail. A block begins with kind (1 byte), first and last second, rows (packing.HEADER).
-- The state is a number that grows, then for each level: bytes, first second, second before which
-- something is gone.
--
-- Returns 1, or 0 where nothing happened.
local STATES, STEM = ARGV[1] .. 'history', ARGV[1] .. 'history:' .. ARGV[2] .. ':'
local id, tail, packed, now = ARGV[2], STEM .. 'tail', tonumber(ARGV[4]), tonumber(ARGV[7])
-- What a block takes in its list beside its own bytes, and most blocks that go in one call.
local OVERHEAD, MOST = 8, 256
local STATE = '<I4I4I4I4I4I4I4I4I4I4'

local state = redis.call('HGET', STATES, id) or ''
if state ~= ARGV[3] then return 0 end
if packed > 0 then
  if redis.call('LINDEX', tail, packed - 1) ~= ARGV[5] then return 0 end
  redis.call('LTRIM', tail, packed, -1)
  local first = redis.call('LINDEX', tail, 0)
  if first and string.sub(first, 1, 1) == 'v' then redis.call('LPUSH', tail, ARGV[6]) end
end

local number, levels = 0, {}
for i = 1, 3 do
  levels[i] = {key = STEM .. (i - 1), bytes = 0, lost = 0, keep = tonumber(ARGV[5 + 4 * i]),
               floor = tonumber(ARGV[6 + 4 * i]), block = ARGV[7 + 4 * i], replaces = ARGV[8 + 4 * i]}
end
if state ~= '' then
  local found = {struct.unpack(STATE, state)}
  number = found[1]
  for i, level in ipairs(levels) do level.bytes, level.lost = found[3 * i - 1], found[3 * i + 1] end
end

-- First second, second after the last; nil for an empty level.
local function oldest(level)
  local block = redis.call('LINDEX', level.key, 0)
  if not block then return nil end
  local _, first, last = struct.unpack('<BI4I4', block)
  return first, last
end

local function drop(level)
  local _, last = oldest(level)
  local block = redis.call('LPOP', level.key)
  if not block then level.bytes = 0; return end
  level.bytes = level.bytes - #block - OVERHEAD
  if last > level.lost then level.lost = last end
end

for _, level in ipairs(levels) do
  if level.block ~= '' then
    if level.replaces == '1' then
      level.bytes = level.bytes - #redis.call('LINDEX', level.key, -1) + #level.block
      redis.call('LSET', level.key, -1, level.block)
    else
      redis.call('RPUSH', level.key, level.block)
      level.bytes = level.bytes + #level.block + OVERHEAD
    end
  end
end

local gone, total = 0, 0
for _, level in ipairs(levels) do
  while gone < MOST do
    local _, last = oldest(level)
    if not last or last > now - level.keep then break end
    drop(level)
    gone = gone + 1
  end
  total = total + level.bytes
end

-- Too much: the oldest of the finest level that has more than its own, else of the finest there is.
local function too_much()
  for _, level in ipairs(levels) do if level.bytes > level.floor then return level end end
  for _, level in ipairs(levels) do if level.bytes > 0 then return level end end
end
local allowed = tonumber(ARGV[8])
while total > allowed and gone < MOST do
  local level = too_much()
  total = total - level.bytes
  drop(level)
  total = total + level.bytes
  gone = gone + 1
end

local told = {(number + 1) % 4294967296}
for i, level in ipairs(levels) do
  told[3 * i - 1], told[3 * i], told[3 * i + 1] = level.bytes, oldest(level) or 0, level.lost
end
redis.call('HSET', STATES, id, struct.pack(STATE, unpack(told)))
return 1
