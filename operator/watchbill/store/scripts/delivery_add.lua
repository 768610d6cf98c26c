-- Adds a result to a stream that somebody reads, once per delivery. So many ids are remembered as entries are kept, and
-- for as long as nothing else forgets them.
-- KEYS
--   1 stream
--   2 delivered           ids of deliveries by the time at which they were added
-- ARGV
--   1 most                entries and ids that are kept
--   2 lasts               of the ids, in s after the last one
--   3 delivery_id
--   4 task_id
--   5 payload             the result as JSON
-- Answers 1 (added), or 0 (it is there)
local stream, delivered, most, lasts = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local delivery_id, task_id, payload = ARGV[3], ARGV[4], ARGV[5]
if redis.call('ZSCORE', delivered, delivery_id) then return 0 end
local fields = { 'task_id', task_id, 'delivery_id', delivery_id, 'payload', payload }
redis.call('XADD', stream, 'MAXLEN', '~', most, '*', unpack(fields))
local clock = redis.call('TIME')
redis.call('ZADD', delivered, string.format('%.0f', clock[1] * 1e6 + clock[2]), delivery_id)
redis.call('ZREMRANGEBYRANK', delivered, 0, -most - 1)
redis.call('EXPIRE', delivered, lasts)
return 1
