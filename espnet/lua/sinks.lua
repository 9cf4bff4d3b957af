-- The beginning of every script that moves samples: who waits for an entry, and how entries leave.
--
-- ARGV[1] is the prefix of all keys. `waiting:SINK` lists ranges of the stream that nobody of the sink took
-- yet, oldest first, as "FROM TO", both ends outside of the range; the last one's TO is "+".
local PREFIX = ARGV[1]
local SAMPLES, BOOKS, SINKS = PREFIX .. 'samples', PREFIX .. 'books', PREFIX .. 'sinks'
-- The consumer group that keeps the history: with only this one, samples are kept for a sink to come.
local HISTORY = 'history'

-- What an entry takes in the stream at most, in bytes, by those of its batch. Measured with batches of 60 to 9,000
-- bytes: 14 to 87 more on Valkey with libc's allocator, up to a third more on Redis 7.0 with jemalloc.
local function weight(bytes) return math.floor(bytes * 4 / 3) + 64 end

-- An entry's id, "MILLISECONDS-NUMBER", as two numbers.
local function parts(id)
  local ms, number = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(number)
end

-- What an entry says of itself; what nobody of us queued may say nothing.
local function samples_of(row) return tonumber(row[2][2]) or 0 end
local function bytes_of(row) return #(row[2][4] or '') end

-- The ranges of a sink, each {FROM, TO, and both as numbers}.
local function ranges_of(sink)
  local ranges = {}
  for i, text in ipairs(redis.call('LRANGE', PREFIX .. 'waiting:' .. sink, 0, -1)) do
    local from, to = string.match(text, '^(%S+) (%S+)$')
    local from_ms, from_number = parts(from)
    local to_ms, to_number = math.huge, 0
    if to ~= '+' then to_ms, to_number = parts(to) end
    ranges[i] = {from, to, from_ms, from_number, to_ms, to_number}
  end
  return ranges
end

local function is_in(ranges, id)
  local ms, number = parts(id)
  for _, r in ipairs(ranges) do
    if (ms > r[3] or ms == r[3] and number > r[4]) and (ms < r[5] or ms == r[5] and number < r[6]) then
      return true
    end
  end
  return false
end

-- {id, consumer, idle ms, deliveries} of an entry that somebody took and did not settle, or nil.
local function taken(sink, id)
  local rows = redis.pcall('XPENDING', SAMPLES, sink, id, id, 1)
  return not rows.err and rows[1] or nil
end

-- How many samples of an unfinished entry have their fate and are in the books.
local function finished(sink, id)
  local fates = redis.call('HGET', PREFIX .. 'parts:' .. sink, id)
  if not fates then return 0 end
  local _, open = string.gsub(fates, '%z', '')
  return #fates - open
end

-- Takes an entry out of a sink's hands and forgets what became of its parts; whether it was in them.
local function acknowledge(sink, id)
  redis.call('HDEL', PREFIX .. 'parts:' .. sink, id)
  local done = redis.pcall('XACK', SAMPLES, sink, id)
  return done == 1
end

-- Whether a sink has its group. Making one to find out is refused where Redis is full.
local function has_group(sink)
  return not redis.pcall('XPENDING', SAMPLES, sink, '-', '+', 1).err
end

-- Makes a sink's group; all that is in the stream waits for it. Returns the error where there is one.
local function open_group(sink)
  local made = redis.pcall('XGROUP', 'CREATE', SAMPLES, sink, '0', 'MKSTREAM')
  if made.err then return made end
  redis.call('DEL', PREFIX .. 'waiting:' .. sink, PREFIX .. 'parts:' .. sink)
  redis.call('RPUSH', PREFIX .. 'waiting:' .. sink, '0-0 +')
end

-- Where the stream is empty or gone, what the books hold of it was taken away by hand: that is dropped.
local function write_off()
  if redis.call('XLEN', SAMPLES) > 0 then return end
  local is_gone = redis.call('EXISTS', SAMPLES) == 0
  local function drop_queued(books)
    local lost = tonumber(redis.call('HGET', books, 'queued') or '0')
    if lost ~= 0 then
      redis.call('HINCRBY', books, 'dropped', lost)
      redis.call('HSET', books, 'queued', 0)
    end
  end
  for _, sink in ipairs(redis.call('HKEYS', SINKS)) do
    drop_queued(PREFIX .. 'books:' .. sink)
    if is_gone then open_group(sink) end
  end
  drop_queued(BOOKS)
  redis.call('HDEL', BOOKS, 'bytes')
end

-- The other sinks with their ranges: what an entry must not be waited for by, to be let go.
local function others_than(sink)
  local others = {}
  for _, name in ipairs(redis.call('HKEYS', SINKS)) do
    if name ~= sink then others[#others + 1] = {name, ranges_of(name)} end
  end
  return others
end

-- Removes an entry that `sink` has settled, unless somebody else waits for it; whether it did, and then
-- `let_go_of` has to hear of it in the same script. `keep` is '1' where samples are kept until there is a sink.
local function let_go(sink, others, id, keep)
  if keep == '1' and sink == HISTORY and #others == 0 then return false end
  for _, other in ipairs(others) do
    if is_in(other[2], id) or taken(other[1], id) then return false end
  end
  return redis.call('XDEL', SAMPLES, id) == 1
end

-- Books what was let go: so many samples, and the `weight` of their entries together.
local function let_go_of(samples, weights)
  if samples ~= 0 then redis.call('HINCRBY', BOOKS, 'queued', 0 - samples) end
  if weights ~= 0 then redis.call('HINCRBY', BOOKS, 'bytes', 0 - weights) end
end
