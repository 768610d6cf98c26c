#!lua flags=allow-oom
-- uses nothing
-- A worker is to claim no more, or again.
-- KEYS fixed
-- ARGV
--   1 uid
--   2 worker
--   3 is_on               1: it claims no more; 0: again
--   4 channel             control, on which workers hear of it
-- Answers
--   {'gone'}
--   {'ok', changed}       1: that changed anything
local uid, worker, is_on, channel = ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4]
if is_gone(uid) then return { 'gone' } end
local flag, changed = 'drain:' .. worker, nil
if is_on then      -- flags of workers that are gone for a day go, too: pods' names don't come again
  local alive, meta = {}, redis.call('HGETALL', META)
  for _, inc in ipairs(redis.call('HKEYS', WORKERS)) do alive[string.match(inc, '^(.*)%.[^.]*$') or inc] = true end
  for i = 1, #meta, 2 do
    local other, since = string.match(meta[i], '^drain:(.*)$'), meta[i + 1]
    if other and not alive[other] and tonumber(since) < now_ms - DAY * 1000 then redis.call('HDEL', META, meta[i]) end
  end
  changed = redis.call('HSET', META, flag, now)
else
  changed = redis.call('HDEL', META, flag)
end
redis.call('PUBLISH', channel, 'drain')
return { 'ok', changed }
