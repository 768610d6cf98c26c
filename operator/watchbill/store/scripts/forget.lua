#!lua flags=allow-oom
-- uses results
-- Of what has ended no more is kept than the crew wants, and nothing beyond its time: the oldest records go with their ids,
-- ids whose records have expired, and the oldest results of the stream. What is unfinished is never touched. Of a run that
-- ended nothing else is left than its feed, as when it expires. At most 100 records and about 1,000 results a call.
-- KEYS: fixed; then per id: task, run, steps, results
-- ARGV: uid, definition that the bounds are from, maxResults, ttl ms, highest score that the ids had, ids (the oldest first)
-- -> {'gone'} | {'changed'} (the crew has another definition) | {'ok', how many went, how many should go yet, about}
local meta = redis.call('HMGET', META, 'uid', 'def')
if meta[1] ~= ARGV[1] then return { 'gone' } end
if meta[2] ~= ARGV[2] then return { 'changed' } end
local most, ttl, highest = tonumber(ARGV[3]), tonumber(ARGV[4]), math.min(tonumber(ARGV[5]), FAR - 1)
local ids, tasks, runs, gone = {}, {}, {}, {}
-- Counted here: others may have done the same since the caller looked.
local over = math.max(redis.call('ZCOUNT', IDS, '-inf', '(' .. FAR) - most, redis.call('ZCOUNT', IDS, '-inf', now_ms))
if #ARGV > 5 then
  for i = 6, #ARGV do ids[i - 5] = ARGV[i] end
  for i, score in ipairs(redis.call('ZMSCORE', IDS, unpack(ids))) do
    if #gone >= over then break end
    if score and tonumber(score) <= highest then      -- else it is gone, or was given to other work since
      local at, n = FIXED + 4 * i - 3, #runs
      gone[#gone + 1], tasks[#tasks + 1] = ids[i], KEYS[at]
      runs[n + 1], runs[n + 2], runs[n + 3] = KEYS[at + 1], KEYS[at + 2], KEYS[at + 3]
    end
  end
end
if #gone > 0 then
  if redis.call('UNLINK', unpack(tasks)) < #gone then redis.call('UNLINK', unpack(runs)) end
  redis.call('ZREM', IDS, unpack(gone))
end

local trimmed, left = 0, math.max(over - #gone, 0)
local last = redis.call('XREVRANGE', RESULTS, '+', '-', 'COUNT', 1)[1]
if last and tonumber(string.match(last[1], '^%d+')) < now_ms - ttl then
  redis.call('UNLINK', RESULTS)
elseif last then
  local length = redis.call('XLEN', RESULTS)
  if length > most then trimmed = redis.call('XTRIM', RESULTS, 'MAXLEN', math.max(most, length - AT_ONCE)) end
  local old = keep_results(ttl)
  trimmed = trimmed + old
  left = left + math.max(length - most - trimmed, old * 2 > AT_ONCE and 1 or 0)
end
return { 'ok', #gone + trimmed, left }
