-- One look at what a save or an update is about to change, on the server's clock. Writes nothing.
-- KEYS 1 record, 2 (optional) the id's entry
-- Answer: record or nil, name or nil, seconds, microseconds
local time = redis.call('TIME')
return { redis.call('GET', KEYS[1]), KEYS[2] and redis.call('GET', KEYS[2]) or false, time[1], time[2] }
