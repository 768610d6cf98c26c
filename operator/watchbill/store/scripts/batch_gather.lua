#!lua flags=allow-oom
-- uses nothing
-- A task's request to a model joins those that are gathered for a batch, while the task is its worker's own.
-- KEYS fixed, then
--   1 record              of the task, or of its run
--   2 lane
--   3 requests
--   4 batches
--   5 reserved            what such requests may cost
-- ARGV
--   1 uid
--   2 inc
--   3 id
--   4 fence
--   5 field               of the record, for the next
--   6 own                 (packed.Batched in Python)
--   7 request             its id
--   8 packed              (packed.Gathered in Python)
--   9 body
--   10 place              in the lane
--   11 group
--   12 shared             what the requests of that group have in common
-- Answers gone | fenced | unknown | stale | ok
local record, lane, requests, batches, reserved = KEYS[FIXED + 1], KEYS[FIXED + 2], KEYS[FIXED + 3], KEYS[FIXED + 4],
  KEYS[FIXED + 5]
local uid, inc, id, fence, field, own = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local request, packed, body, place, group, shared = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local bar = barred(uid, inc)
if bar then return bar end
local held = redis.call('HGET', HOLDERS, id)
if not held or string.find(held, inc .. FS .. fence .. FS, 1, true) ~= 1 then return 'stale' end
if redis.call('EXISTS', record) == 0 then return 'stale' end
redis.call('HSET', record, field, own)
redis.call('HDEL', record, (string.gsub(field, '^batch', 'batched')))      -- the conversation has that answer
redis.call('HSET', requests, request, packed, request .. ':body', body)
redis.call('ZADD', lane, 0, place .. ':' .. request)
redis.call('HSET', batches, 'g:' .. group, shared)
redis.call('HSETNX', META, 'batched', now)
redis.call('EXPIRE', reserved, 3 * DAY)
return 'ok'
