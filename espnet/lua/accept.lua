-- Takes delivered entries out of the stream and writes them into the books, in one step.
--
-- KEYS  1 samples (stream)   2 books (hash)
-- ARGV  1 sink (the consumer group's name), then for each entry: its id, its number of samples
--
-- An entry that the bound had dropped meanwhile is in the books as dropped, and stays so.
-- Returns the number of samples that are now in the books as accepted.
local accepted = 0
for i = 2, #ARGV, 2 do
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  if redis.call('XDEL', KEYS[1], ARGV[i]) == 1 then accepted = accepted + tonumber(ARGV[i + 1]) end
end
if accepted > 0 then
  redis.call('HINCRBY', KEYS[2], 'accepted', accepted)
  redis.call('HINCRBY', KEYS[2], 'queued', -accepted)
end
return accepted
