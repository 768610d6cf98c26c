#!lua flags=allow-oom
-- uses nothing
-- Records of what a heartbeat has fired go, where it has ended, as when they expire; it is no longer among what was
-- fired. At most 100 a call.
-- KEYS fixed, then
--   1 fired
--   2 ...                 for each id: task, run, steps, results
-- ARGV
--   1 uid
--   2 ...                 entries of `fired`: id and time
-- Answers
--   {'gone'}
--   {'ok', went}
local uid, fired, went = ARGV[1], KEYS[FIXED + 1], 0
if is_gone(uid) then return { 'gone' } end
for i = 2, #ARGV do
  local entry, key = ARGV[i], FIXED + 4 * i - 6
  local task, run, steps, results = KEYS[key], KEYS[key + 1], KEYS[key + 2], KEYS[key + 3]
  if redis.call('HEXISTS', task, 'finished') == 1 or redis.call('HEXISTS', run, 'finished') == 1 then
    redis.call('UNLINK', task, run, steps, results)
    redis.call('ZREM', IDS, string.match(entry, '^[^ ]+'))
    redis.call('LREM', fired, 1, entry)
    went = went + 1
  end
end
return { 'ok', went }
