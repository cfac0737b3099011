-- promise(sid, amount, scope ...) -> {'ok'} | {why, scope, free}; why as in reserve
-- p:<scope> hash: kept until the session ends; a:<scope> is only read; j stream
-- All accounts promise, or none. Each has as much left as its cap carries beside what is posted, held
-- and promised to others. Of several with too little the tightest is named.
local sid, amt = ARGV[1], amount(ARGV[2])
if redis.call('HEXISTS', promises_key(ARGV[3]), sid) == 1 then return {'ok'} end
if killed() then return {'killed', ARGV[3], '0'} end
local tightest, least
for i = 3, #ARGV do
  local scope = ARGV[i]
  local a = fields_of(scope)
  if not a[1] then return {'no_account', scope, '0'} end
  local room = math.max(a[1] - a[2] - a[3] - promised(scope, sid), 0)
  if a[7] == '1' then return {'closed', scope, int(room)} end
  if a[6] == '1' then return {'frozen', scope, int(room)} end
  if not least or room < least then tightest, least = scope, room end
end
if amt > least then return {'cap', tightest, int(least)} end
for i = 3, #ARGV do redis.call('HSET', promises_key(ARGV[i]), sid, int(amt)) end
log('promise', 'session', sid, 'amount', int(amt))
return {'ok'}
