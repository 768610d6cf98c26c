#!lua flags=allow-oom
-- uses nothing
-- The result of a step within a task goes into the task's record, while the task is its worker's own.
-- KEYS fixed, then
--   1 record            of the task, or of the run that its step is a part of
-- ARGV
--   1 uid
--   2 inc
--   3 id
--   4 fence
--   5 counter             the field that has the highest number so far
--   6 field               before the number
--   7 number              of the checkpoint in its task, from 1
--   8 packed              name, size and value (packed.Checkpoint in Python)
--   9 beside              the value, where it has a field of its own; '': it has none
-- Answers gone | fenced | unknown | stale | ok
local record = KEYS[FIXED + 1]
local uid, inc, id, fence, counter = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local field, number, packed, beside = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local bar = barred(uid, inc)
if bar then return bar end
local held = redis.call('HGET', HOLDERS, id)
if not held or string.find(held, inc .. FS .. fence .. FS, 1, true) ~= 1 then return 'stale' end
if redis.call('EXISTS', record) == 0 then return 'stale' end
if beside ~= '' then redis.call('HSET', record, field .. number .. ':value', beside) end
redis.call('HSET', record, field .. number, packed)
-- Those of one attempt may overtake each other.
if tonumber(redis.call('HGET', record, counter) or '0') < tonumber(number) then
  redis.call('HSET', record, counter, number)
end
return 'ok'
