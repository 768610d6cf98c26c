#!lua flags=no-writes
-- uses nothing
-- The checkpoints of a task, for an attempt that holds it: at most 500 a call, and few more bytes than `most`.
-- KEYS fixed, then
--   1 record            of the task, or of the run that its step is a part of
-- ARGV
--   1 uid
--   2 inc
--   3 id
--   4 fence
--   5 counter             the field that has the highest number
--   6 field               before the number
--   7 first               number
--   8 most                bytes
-- Answers
--   {'gone'}
--   {'fenced'}
--   {'unknown'}
--   {'stale'}
--   {'ok', next, ...}     the number to go on with, 0 where all are read; then each one's number and packed value
local record = KEYS[FIXED + 1]
local uid, inc, id, fence, counter = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local field, first, most = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local bar = barred(uid, inc)
if bar then return { bar } end
local held = redis.call('HGET', HOLDERS, id)
if not held or string.find(held, inc .. FS .. fence .. FS, 1, true) ~= 1 then return { 'stale' } end
local last = tonumber(redis.call('HGET', record, counter) or '0')
local answer, size = { 'ok', '0' }, 0
for number = first, last do
  if size > most or number >= first + 500 then
    answer[2] = int(number)
    break
  end
  local packed = redis.call('HGET', record, field .. int(number))
  if packed then
    answer[#answer + 1], answer[#answer + 2] = int(number), packed
    size = size + #packed
  end
end
return answer
