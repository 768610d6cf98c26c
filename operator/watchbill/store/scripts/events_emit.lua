-- Writes one event to all streams to which it goes. The ids are kept for two minutes, so that a call that is sent again
-- gets them and writes nothing. An event of a crew is written only while there is such a crew.
-- KEYS
--   1 sent                keeps the ids
--   2 meta                of the crew; of a town `sent` again
--   3 ...                 streams
-- ARGV
--   1 lasts               of a crew's streams, in s after their last event; '': the streams are a town's, and stay
--   2 event_type
--   3 data                the event as JSON
--   4 ...                 entries of each stream, at most
-- Answers nil (there is no such crew), or the ids, joined by spaces
local sent, meta, lasts, event_type, data = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
local known = redis.call('GET', sent)
if known then return known end
if lasts ~= '' and redis.call('HEXISTS', meta, 'uid') == 0 then return nil end
for i = 3, #KEYS do
  local stream = KEYS[i]
  redis.call('XLEN', stream) -- fails here, before any write, if another program's key is in the way
end
local ids = {}
for i = 3, #KEYS do
  local stream, most = KEYS[i], ARGV[i + 1]
  ids[#ids + 1] = redis.call('XADD', stream, 'MAXLEN', '~', most, '*', 'event_type', event_type, 'data', data)
  if lasts ~= '' then redis.call('EXPIRE', stream, lasts) end
end
local answer = table.concat(ids, ' ')
redis.call('SET', sent, answer, 'EX', 120)
return answer
