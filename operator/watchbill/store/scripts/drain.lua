#!lua flags=allow-oom
-- uses nothing
-- Workers are to claim no more, or again. A flag is `<since in ms>`, and ` scaling` behind that where nobody but the
-- operator's scaling set it: it takes back only its own.
-- KEYS fixed
-- ARGV
--   1 uid
--   2 is_on               1: they claim no more; 0: again
--   3 by                  person | scaling
--   4 channel             control, on which workers hear of it
--   5 ...                 workers
-- Answers
--   {'gone'}
--   {'ok', changed}       the number of workers for which that changed anything
local uid, is_on, by, channel = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4]
local by_scaling = by == 'scaling'
if is_gone(uid) then return { 'gone' } end
local changed = 0
if is_on then      -- flags of workers that are gone for a day go, too: pods' names don't come again
  local alive, meta = {}, redis.call('HGETALL', META)
  for _, inc in ipairs(redis.call('HKEYS', WORKERS)) do alive[string.match(inc, '^(.*)%.[^.]*$') or inc] = true end
  for i = 1, #meta, 2 do
    local other, since = string.match(meta[i], '^drain:(.*)$'), string.match(meta[i + 1], '^%d+')
    if other and not alive[other] and tonumber(since or '0') < now_ms - DAY * 1000 then
      redis.call('HDEL', META, meta[i])
    end
  end
end
for i = 5, #ARGV do
  local worker = ARGV[i]
  local flag = 'drain:' .. worker
  local told = redis.call('HGET', META, flag)
  local is_scalings = told and string.sub(told, -8) == ' scaling'
  if is_on and (not told or (is_scalings and not by_scaling)) then
    redis.call('HSET', META, flag, by_scaling and now .. ' scaling' or now)
    changed = changed + 1
  elseif not is_on and told and (is_scalings or not by_scaling) then
    redis.call('HDEL', META, flag)
    redis.call('HSET', META, 'undrained', now)
    changed = changed + 1
  end
end
redis.call('PUBLISH', channel, 'drain')
return { 'ok', changed }
