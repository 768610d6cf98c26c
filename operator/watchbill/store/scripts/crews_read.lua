-- One look at what a save or an update is about to change, on the server's clock. Writes nothing.
-- KEYS
--   1 record
--   2 entry               of the id, where there is one
-- Answers {record or nil, name or nil, seconds, microseconds}
local record, entry = KEYS[1], KEYS[2]
local time = redis.call('TIME')
return { redis.call('GET', record), entry and redis.call('GET', entry) or false, time[1], time[2] }
