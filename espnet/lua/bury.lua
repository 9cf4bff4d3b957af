-- Ends dead letters: each was accepted after all, is too old, or is given up. (sinks.lua comes before this.)
--
-- ARGV  2 what became of them: accepted, expired or dropped, then their ids
--
-- Returns how many there were: a letter that somebody else ended meanwhile is not counted again.
local DEAD, ended = PREFIX .. 'dead', 0
for i = 3, #ARGV do
  local rows = redis.call('XRANGE', DEAD, ARGV[i], ARGV[i])
  if rows[1] and redis.call('XDEL', DEAD, ARGV[i]) == 1 then
    local books = PREFIX .. 'books:' .. rows[1][2][2]
    redis.call('HINCRBY', books, 'dead', -1)
    redis.call('HINCRBY', books, ARGV[2], 1)
    ended = ended + 1
  end
end
return ended
