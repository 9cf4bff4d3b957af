-- Gives a consumer of a sink entries that nobody of the sink took yet. (sinks.lua comes before this.)
--
-- ARGV  2 sink   3 consumer   4 most entries   5 '1' for the newest ones, else the oldest
--
-- What is taken is in the sink's pending list, never delivered so far, and out of its ranges, in one step.
-- Returns the entries, oldest first.
local sink, consumer, most, is_newest = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1'
local ranges, left, found = ranges_of(sink), {}, {}
-- Each cut at the newest end leaves one range more. With so many, the newest range is cut at its old end.
local cuts_newest = is_newest and #ranges < 64

-- Takes what it may from one range; returns what is left of it.
local function cut(range)
  local want, from, to = most - #found, range[1], range[2]
  if want == 0 then return {range} end
  local stop = to == '+' and '+' or '(' .. to
  local rows
  if cuts_newest then
    rows = redis.call('XREVRANGE', SAMPLES, stop, '(' .. from, 'COUNT', want)
  else
    rows = redis.call('XRANGE', SAMPLES, '(' .. from, stop, 'COUNT', want)
  end
  local step = cuts_newest and 1 or -1
  if is_newest then
    -- The newest first, to be turned round at the end.
    for i = cuts_newest and 1 or #rows, cuts_newest and #rows or 1, step do found[#found + 1] = rows[i] end
  else
    for _, row in ipairs(rows) do found[#found + 1] = row end
  end
  local first, last = rows[1], rows[#rows]
  if not first then return to == '+' and {range} or {} end
  if not cuts_newest then
    if #rows < want and to ~= '+' then return {} end
    return {{last[1], to}}
  end
  local rest = {}
  if #rows == want then rest[1] = {from, last[1]} end
  if to == '+' then rest[#rest + 1] = {first[1], '+'} end
  return rest
end

if is_newest then
  for i = #ranges, 1, -1 do
    local rest = cut(ranges[i])
    for j = #rest, 1, -1 do table.insert(left, 1, rest[j]) end
  end
  local turned = {}
  for i = #found, 1, -1 do turned[#turned + 1] = found[i] end
  found = turned
else
  for _, range in ipairs(ranges) do
    for _, rest in ipairs(cut(range)) do left[#left + 1] = rest end
  end
end
if #found > 0 then
  local claim = {'XCLAIM', SAMPLES, sink, consumer, 0}
  for _, row in ipairs(found) do claim[#claim + 1] = row[1] end
  for _, word in ipairs({'RETRYCOUNT', 0, 'FORCE', 'JUSTID', 'LASTID', found[#found][1]}) do
    claim[#claim + 1] = word
  end
  redis.call(unpack(claim))
end
if #found > 0 or #left < #ranges then
  local key = PREFIX .. 'waiting:' .. sink
  redis.call('DEL', key)
  for _, range in ipairs(left) do redis.call('RPUSH', key, range[1] .. ' ' .. range[2]) end
end
return found
