#!lua flags=allow-oom
-- uses results
-- Of what has ended no more is kept than the crew wants, and nothing beyond its time: the oldest records go with
-- their ids, ids whose records have expired, and the oldest results of the stream. What is unfinished is never
-- touched. Of a run that ended nothing else is left than its feed, as when it expires. Definitions go that nothing
-- refers to any more. At most 100 records and about 1,000 results a call.
-- KEYS fixed, then for each id
--   task
--   run
--   steps
--   results
--   then of each definition of `unused` its key
-- ARGV
--   1 uid
--   2 definition          that the bounds are from
--   3 max_results
--   4 ttl                 in ms
--   5 highest             score that the ids had
--   6 unused              as this answered before; '': none
--   7 ...                 ids, the oldest first
-- Answers
--   {'gone'}
--   {'changed'}           the crew has another definition
--   {'ok', went, left, unused, unmade}    so many went, and about so many should go yet; the digests of definitions
--                                 that may be of no use, joined by LS; at most 100 runs that were begun in several
--                                 calls, and nobody has gone on with for an hour
local uid, definition, max_results, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local highest, unused = math.min(tonumber(ARGV[5]), FAR - 1), ARGV[6]
local meta = redis.call('HMGET', META, 'uid', 'def', 'unused')
if meta[1] ~= uid then return { 'gone' } end
if meta[2] ~= definition then return { 'changed' } end
local ids, gone, tasks, of_runs = {}, {}, {}, {}
-- Counted here: others may have done the same since the caller looked.
local over = redis.call('ZCOUNT', IDS, '-inf', '(' .. FAR) - max_results
over = math.max(over, redis.call('ZCOUNT', IDS, '-inf', now_ms))
if #ARGV > 6 then
  for i = 7, #ARGV do ids[i - 6] = ARGV[i] end
  for i, score in ipairs(redis.call('ZMSCORE', IDS, unpack(ids))) do
    if #gone >= over then break end
    if score and tonumber(score) <= highest then      -- else it is gone, or was given to other work since
      local key, n = FIXED + 4 * i - 3, #of_runs
      local task, run, steps, results = KEYS[key], KEYS[key + 1], KEYS[key + 2], KEYS[key + 3]
      gone[#gone + 1], tasks[#tasks + 1] = ids[i], task
      of_runs[n + 1], of_runs[n + 2], of_runs[n + 3] = run, steps, results
    end
  end
end
if #gone > 0 then
  if redis.call('UNLINK', unpack(tasks)) < #gone then redis.call('UNLINK', unpack(of_runs)) end
  redis.call('ZREM', IDS, unpack(gone))
end

local unneeded = meta[3] or ''
if unneeded ~= '' and unneeded == unused then
  local digests = split(unused, LS)
  for i, digest in ipairs(digests) do
    local key = KEYS[#KEYS - #digests + i]
    -- Else it was taken up again, and goes as any other.
    if digest ~= definition and redis.call('HEXISTS', META, 'ref:' .. digest) == 0 then redis.call('UNLINK', key) end
  end
  redis.call('HDEL', META, 'unused')
  unneeded = ''
end

local trimmed, left = 0, math.max(over - #gone, 0)
local last = redis.call('XREVRANGE', RESULTS, '+', '-', 'COUNT', 1)[1]
if last and tonumber(string.match(last[1], '^%d+')) < now_ms - ttl then
  redis.call('UNLINK', RESULTS)
elseif last then
  local length = redis.call('XLEN', RESULTS)
  if length > max_results then
    trimmed = redis.call('XTRIM', RESULTS, 'MAXLEN', math.max(max_results, length - AT_ONCE))
  end
  local old = trim_results(ttl)
  trimmed = trimmed + old
  left = left + math.max(length - max_results - trimmed, old * 2 > AT_ONCE and 1 or 0)
end
local hour_ago = FAR + math.floor(now_ms / 1000) - 3600        -- as submit_run.lua has it
local unmade = redis.call('ZRANGEBYSCORE', IDS, '(' .. FAR, string.format('%.0f', hour_ago), 'LIMIT', 0, 100)
return { 'ok', #gone + trimmed, left, unneeded, unmade }
