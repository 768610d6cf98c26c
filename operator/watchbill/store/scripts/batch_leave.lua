#!lua flags=allow-oom
-- uses steps limits batches
-- A task waits for its request no longer: it is made at once. What was not sent is withdrawn.
-- KEYS fixed, then
--   1 record              of the task, or of its run
--   2 lane
--   3 requests
-- ARGV
--   1 uid
--   2 inc
--   3 id
--   4 fence
--   5 field               of the record, for the next
--   6 own                 (packed.Batched in Python)
--   7 answer              the field of the record with the answer
--   8 request
-- Answers gone | fenced | unknown | stale | ok | withdrawn:<its reservation>
local record, lane, requests = KEYS[FIXED + 1], KEYS[FIXED + 2], KEYS[FIXED + 3]
local uid, inc, id, fence, field, own = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local answer, request = ARGV[7], ARGV[8]
local bar = barred(uid, inc)
if bar then return bar end
local held = redis.call('HGET', HOLDERS, id)
if not held or string.find(held, inc .. FS .. fence .. FS, 1, true) ~= 1 then return 'stale' end
if redis.call('EXISTS', record) == 0 then return 'stale' end
local known = redis.call('HGET', record, field) or ''
if string.sub(known, 1, #own + 1) == own .. FS then return 'withdrawn:' .. string.sub(known, #own + 2) end    -- again
local _, _, call, _, place = string.match(redis.call('HGET', requests, request) or '', REQUEST)
local is_unsent = place and string.sub(place, 1, 2) == 'g:'
redis.call('HSET', record, field, is_unsent and own .. FS .. call or own)
redis.call('HDEL', record, answer)
if not is_unsent then return 'ok' end
forget(lane, requests, request, place)
return 'withdrawn:' .. call
